"""Makes the golden files of this folder. Needs: gguf, regex, sentencepiece, jinja2, tokenizers.

    python make_golden.py SmolLM2-135M-Instruct.Q4_1.gguf

byte_level.json     the head of SmolLM2's vocabulary, with ids of texts under each pre-tokenizer. The reference is a
                    plain BPE in this file on the `regex` module; where `tokenizers` has the whole pipeline ready
                    made, it is asked as well and must agree.
sentencepiece.json  a small BPE model trained here, with the ids that the sentencepiece library gives.
chat.json           conversations rendered by Jinja as `apply_chat_template` sets it up.
"""

import datetime
import io
import json
import sys
import unicodedata

import jinja2
import jinja2.ext
import jinja2.sandbox
import regex
import sentencepiece
import tokenizers
from gguf import GGUFReader

TEXTS = [
    "",
    " ",
    "Hello world",
    "What is gravity?",
    "Hello  world\n\n  and   more \n \n\t tabs\t\tend  ",
    "In 1969, 3.14159 and 1234567 cost $42.00!",
    "I'm sure they'LL say WE'VE done it; don't you?",
    "naïve café — “quotes” … ½ ⅷ ² ٣٤",
    "日本語のテキスト 12月 中文，你好。",
    "👩‍👩‍👧‍👦 🇩🇪 👍🏽 e\u0301 \u0928\u093f",
    "fn main() { println!(\"{}\", x+1); } // <|im_end|>",
    "<|im_start|>user\nHi<|im_end|>\n",
    "a\r\nb\r\n\r\nc   \r\n",
    "\u00a0nbsp\u3000wide\u200bzero",
    "====>>>>^^^^~~~||| $$$ +++ <<<",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa                                    b",
]

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
CASELESS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# llama.cpp, src/llama-vocab.cpp
EXPRESSIONS = {
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
    "gpt-2": [GPT2],
    "llama-bpe": [CASELESS + r"|\p{N}{1,3}" + REST],
    "qwen2": [CASELESS + r"|\p{N}" + REST],
    "smollm": [r"\p{N}", GPT2],
}


def byte_alphabet():
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    chars, n = {b: chr(b) for b in printable}, 0
    for b in range(256):
        if b not in chars:
            chars[b] = chr(256 + n)
            n += 1
    return chars


def cut(pieces, expression):
    out = []
    for piece in pieces:
        at = 0
        for m in regex.finditer(expression, piece):
            out += [piece[at : m.start()], m.group()]
            at = m.end()
        out.append(piece[at:])
    return [p for p in out if p]


def bpe(word, ranks):
    parts = list(word)
    while len(parts) > 1:
        best = min(range(len(parts) - 1), key=lambda i: ranks.get((parts[i], parts[i + 1]), 1 << 60))
        if (parts[best], parts[best + 1]) not in ranks:
            break
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts


def reference(text, pre, ids, ranks, special, alphabet, ignore_merges):
    out = []
    for part in regex.split("(" + "|".join(map(regex.escape, special)) + ")", text):
        if part in special:
            out.append(ids[part])
            continue
        if pre == "qwen2":
            part = unicodedata.normalize("NFC", part)
        pieces = [part] if part else []
        for expression in EXPRESSIONS[pre]:
            pieces = cut(pieces, expression)
        for piece in pieces:
            word = "".join(alphabet[b] for b in piece.encode())
            whole = ignore_merges and word in ids
            # A byte that never occurred in training has no token and vanishes, as in `tokenizers`.
            out += [ids[p] for p in ([word] if whole else bpe(word, ranks)) if p in ids]
    return out


def byte_level(path):
    fields = GGUFReader(path).fields
    get = lambda key: fields["tokenizer.ggml." + key].contents()
    count = 1500
    tokens, types = get("tokens")[:count], get("token_type")[:count]
    ids = {t: i for i, t in enumerate(tokens)}
    merges = [m for m in get("merges") if m.replace(" ", "") in ids]
    ranks = {tuple(m.split(" ")): i for i, m in enumerate(merges)}
    special = [t for t, kind in zip(tokens, types) if kind == 3]
    alphabet = byte_alphabet()
    cases = []
    for pre in EXPRESSIONS:
        for text in TEXTS:
            expected = reference(text, pre, ids, ranks, special, alphabet, pre == "llama-bpe")
            cases.append({"pre": pre, "text": text, "ids": expected})
    # SmolLM2's own tokenizer.json, put together with the library that its authors used.
    model = tokenizers.models.BPE(vocab=ids, merges=[tuple(m.split(" ")) for m in merges])
    own = tokenizers.Tokenizer(model)
    own.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [tokenizers.pre_tokenizers.Digits(individual_digits=True), tokenizers.pre_tokenizers.ByteLevel(False)]
    )
    own.add_special_tokens(special)
    for case in cases:
        if case["pre"] == "smollm":
            assert own.encode(case["text"]).ids == case["ids"], case
    return {"tokens": tokens, "token_types": types, "merges": merges, "bos": get("bos_token_id"),
            "eos": get("eos_token_id"), "cases": cases}


def sentence_piece():
    corpus = [line for line in TEXTS if line.strip() and "<|" not in line and "👩" not in line] * 20
    corpus += ["the quick brown fox jumps over the lazy dog and then the other one there"] * 20
    corpus += ["gravity is a fundamental concept in physics that the earth and the moon share"] * 20
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus), model_writer=model, model_type="bpe", vocab_size=700, byte_fallback=True,
        normalization_rule_name="identity", add_dummy_prefix=True, remove_extra_whitespaces=False,
        character_coverage=0.98, max_sentence_length=10000, minloglevel=2, split_digits=True,
        allow_whitespace_only_pieces=True, user_defined_symbols=["<tool>"],
    )
    sp = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    n = sp.get_piece_size()
    kind = lambda i: (2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else
                      5 if sp.is_unused(i) else 4 if sp.id_to_piece(i) == "<tool>" else 1)
    texts = [t for t in TEXTS if t and "<|" not in t]
    return {"tokens": [sp.id_to_piece(i) for i in range(n)], "scores": [sp.get_score(i) for i in range(n)],
            "token_types": [kind(i) for i in range(n)], "bos": sp.bos_id(), "eos": sp.eos_id(), "unknown": sp.unk_id(),
            "cases": [{"text": t, "ids": sp.encode(t), "decoded": sp.decode(sp.encode(t))} for t in texts]}


TEMPLATES = {
    "llama-3": "{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now(\"%d %b %Y\") %}{%- else %}{%- set date_string = \"26 Jul 2024\" %}"
    "{%- endif %}{%- endif %}\n{%- if messages[0]['role'] == 'system' %}\n"
    "    {%- set system_message = messages[0]['content']|trim %}\n    {%- set messages = messages[1:] %}\n"
    "{%- else %}\n    {%- set system_message = \"\" %}\n{%- endif %}\n"
    "{{- \"<|start_header_id|>system<|end_header_id|>\\n\\n\" }}{{- \"Today Date: \" + date_string + \"\\n\\n\" }}"
    "{{- system_message }}{{- \"<|eot_id|>\" }}\n{%- for message in messages %}\n"
    "    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}\n"
    "{%- endfor %}\n{%- if add_generation_prompt %}\n"
    "    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n{%- endif %}\n",
    "mistral": "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'].strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token}}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
    "qwen-3-like": "{%- set ns = namespace(multi_step=true, last=messages|length - 1) %}\n"
    "{%- for message in messages[::-1] %}\n    {%- set index = (messages|length - 1) - loop.index0 %}\n"
    "    {%- if ns.multi_step and message.role == \"user\" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}\n"
    "        {%- set ns.multi_step = false %}\n        {%- set ns.last = index %}\n    {%- endif %}\n{%- endfor %}\n"
    "{%- for message in messages %}\n    {%- if message.content is string %}{%- set content = message.content %}{%- else %}{%- set content = '' %}{%- endif %}\n"
    "    {%- if message.role == \"assistant\" %}\n        {%- set reasoning = '' %}\n"
    "        {%- if '</think>' in content %}\n"
    "            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}\n"
    "            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}\n        {%- endif %}\n"
    "        {%- if loop.index0 > ns.last and reasoning %}\n"
    "            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content }}\n"
    "        {%- else %}\n            {{- '<|im_start|>' + message.role + '\\n' + content }}\n        {%- endif %}\n"
    "        {{- '<|im_end|>\\n' }}\n    {%- else %}\n"
    "        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}\n    {%- endif %}\n{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n",
    "block whitespace": "{% for message in messages %}\n    {% if message.role == 'system' %}\n    {% continue %}\n    {% endif %}\n"
    "  {{ message.role | upper }}: {{ message.content | tojson }}\n    {# gone #}\n"
    "  {%- generation %}[{{ loop.index }}/{{ loop.length }}]{% endgeneration %}\n"
    "{% if loop.last %}\nlast\n{% else %}\nmore\n{% endif %}\n{% if loop.index == 3 %}{% break %}{% endif %}\n{% endfor %}\n"
    "{{ messages[0] | tojson(indent=2) }}\n{{ {'a': [1, 2.5, true, none], 'b': {}} | tojson }}\n",
    "methods": "{% for m in messages %}{{ m.content.title() }}|{{ m.content.split() | join('+') }}|{{ m.content.split('a', 1) | join('+') }}|"
    "{{ m.content.replace('e', '3').upper() }}|{{ m.content.find('a') }}|{{ m.content.count('a') }}|{{ m.items() | list | length }}|"
    "{{ m.get('nothing', 'none') }}|{{ m['content'][:5] }}|{{ m.content[-3:] }}|{{ m.content.capitalize() }}|"
    "{{ m.content.rsplit(' ', 1)[-1] }}|{{ '-'.join(['x', 'y']) }}|{{ m.content.splitlines() | length }}|"
    "{{ 'yes' if m.content.endswith(('?', '.')) else 'no' }}\n{% endfor %}",
}

CONVERSATIONS = [
    [("user", "What is gravity?")],
    [("system", "Be brief. "), ("user", "  Hi there <b>&'\"  ")],
    [("user", "One"), ("assistant", "<think>\nhm\n</think>\n\nTwo"), ("user", "Three, a café\n?")],
    [("user", "q"), ("assistant", "<think>x</think>y"), ("assistant", "<think>\nlate\n</think>done")],
]


def chat(path):
    class Generation(jinja2.ext.Extension):
        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.Scope(body).set_lineno(line)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    now = 1732000000
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda f: datetime.datetime.fromtimestamp(now, datetime.UTC).strftime(f)
    templates = {"smollm2": GGUFReader(path).fields["tokenizer.chat_template"].contents(), **TEMPLATES}
    cases = []
    for name in templates:
        for conversation in CONVERSATIONS:
            for prompt in (False, True):
                messages = [{"role": r, "content": c} for r, c in conversation]
                case = {"template": name, "messages": messages, "add_generation_prompt": prompt}
                try:
                    case["text"] = env.from_string(templates[name]).render(
                        messages=messages, add_generation_prompt=prompt, bos_token="<s>", eos_token="</s>",
                        tools=None, documents=None)
                except jinja2.exceptions.TemplateError as e:
                    case["raised"] = str(e)
                cases.append(case)
    return {"now": now, "templates": templates, "cases": cases}


def write(name, value):
    with open(__file__.rsplit("/", 1)[0] + "/" + name, "w") as file:
        json.dump(value, file, ensure_ascii=False, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    write("byte_level.json", byte_level(sys.argv[1]))
    write("sentencepiece.json", sentence_piece())
    write("chat.json", chat(sys.argv[1]))
