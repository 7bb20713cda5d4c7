"""The checks of a script. Each runs and prints `ok NAME`, or ends the run with its traceback; the last line is the count. The
test that started the script holds both against the `@check`s in its text (`tests/src/clients.rs`): one that does not run
fails it.
"""

checks = []


def check(function):
    checks.append(function)
    return function


def run_all():
    for function in checks:
        function()
        print(f"ok {function.__name__}", flush=True)
    print(f"{len(checks)} checks passed, 0 skipped")
