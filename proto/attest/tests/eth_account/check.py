"""Signs the typed data of golden/typed_data.json again with eth-account and compares digests and signatures.

It reads types, facts and secrets only; what it compares with was made by proto-attest.
"""

import json
import re
import sys

from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils import keccak

DOMAIN_FIELDS = {"name": "string", "version": "string", "chainId": "uint256", "verifyingContract": "address"}


def types_of(text):
    """`A(x y,z w)B(..)` as eth-account has it, and the name of the first one."""
    structs = re.findall(r"(\w+)\(([^)]*)\)", text)
    fields = lambda body: [dict(zip(("type", "name"), field.split(" "))) for field in body.split(",")]
    return {name: fields(body) for name, body in structs}, structs[0][0]


def check(case):
    types, primary = types_of(case["type"])
    domain = case["domain"]
    types["EIP712Domain"] = [{"name": n, "type": t} for n, t in DOMAIN_FIELDS.items() if n in domain]
    message = {"types": types, "primaryType": primary, "domain": domain, "message": case["message"]}
    signable = encode_typed_data(full_message=message)
    digest = keccak(b"\x19" + signable.version + signable.header + signable.body).hex()
    signed = Account.sign_message(signable, case["secret"])
    made = (digest, bytes(signed.signature).hex(), Account.from_key(case["secret"]).address)
    golden = (case["digest"], case["signature"], case["signer"])
    if made != golden:
        sys.exit(f"{case['name']}: eth-account makes {made}, golden is {golden}")
    print(f"ok {case['name']}")


with open(sys.argv[1], encoding="utf-8") as golden:
    CASES = json.load(golden)
for each in CASES:
    check(each)
print(f"{len(CASES)} checks passed, 0 skipped")
