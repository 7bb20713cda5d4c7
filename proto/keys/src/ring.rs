//! The keys that sign receipts, and the binding that names them.
//!
//! ```text
//! operator.key  whose node it is: stake and payout. Absent where the operator signs elsewhere (a hardware signer)
//! receipt.key   signs receipts and acknowledgements, or on a router opens and evidence
//! binding       both, by the node and by the operator; renewed a month before it runs out
//! ```
//! A lost receipt key costs nothing but a new binding. A lost operator key can't be had again: the binding holds until
//! it runs out, and then a new operator has to be named, which is another one to whoever pays.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use proto::{NodeId, NodeKey};
use proto_attest::keys::{BindingError, KeyBinding, SignedBinding, VerifiedBinding};
use proto_attest::{Address, OperatorKey, ReceiptKey, RecoverableSignature, SignatureError};

use crate::file::{self, KeyFileError, Secret};

/// File of the operator's key.
pub const OPERATOR_KEY: &str = "operator.key";
/// File of the receipt key.
pub const RECEIPT_KEY: &str = "receipt.key";
pub(crate) const BINDING: &str = "binding";

/// The receipt key with the binding that names it.
#[derive(Debug)]
pub struct KeyRing {
    receipt: ReceiptKey,
    binding: VerifiedBinding,
}

/// Why there are no keys to sign with.
#[derive(Debug, thiserror::Error)]
pub enum KeyRingError {
    /// A key file.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// The bytes are no key of the curve, which a random draw does not give.
    #[error("{0} holds no key of secp256k1: restore it from a backup, or move it away")]
    NoKey(PathBuf),
    /// The binding can't be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// The binding does not hold, and nothing here can renew it.
    #[error(
        "the binding of this node's receipt key to its operator {operator} does not hold ({why}), and that operator's \
         key is not here: let it sign what `keys request` prints, and give the signature to `keys bind`"
    )]
    NotRenewable {
        /// Who would have to sign.
        operator: Address,
        /// Why it does not hold.
        why: BindingError,
    },
    /// A signature from elsewhere.
    #[error("that is no signature: {0}")]
    Signature(#[from] SignatureError),
    /// Not 65 bytes in hexadecimal.
    #[error("a signature has 65 bytes, 130 hexadecimal digits behind 0x")]
    NotHex,
    /// A signature from elsewhere, of something else or by somebody else.
    #[error("that signature does not make a binding: {0}; sign exactly what `keys request` printed last")]
    Refused(BindingError),
    /// Nothing was asked for.
    #[error("nothing waits for a signature: run `keys request --operator ADDRESS` first")]
    NothingAsked,
}

impl KeyRing {
    /// The keys in `folder`, made when first wanted; the binding is renewed where it does not hold for long any more.
    ///
    /// # Errors
    /// [`KeyRingError::NotRenewable`] where only an operator elsewhere can renew it.
    pub fn open(folder: &Path, node: &NodeKey, now_unix_s: u64) -> Result<Self, KeyRingError> {
        let receipt = receipt_key(folder, file::secret_in(folder, RECEIPT_KEY)?)?;
        let known = read_binding(folder)?;
        let fits =
            |binding: &KeyBinding| (binding.node, binding.receipt) == (node.node_id(), receipt.address());
        let why = match known {
            None => None,
            Some(signed) => match signed.verify(now_unix_s) {
                Ok(binding) if fits(binding.binding()) => {
                    let left = binding.binding().expires_unix_s.saturating_sub(now_unix_s);
                    if left > RENEWED_BEFORE_S {
                        return Ok(Self { receipt, binding });
                    }
                    // Better one that still holds than none.
                    if file::existing(folder, OPERATOR_KEY)?.is_none() {
                        return Ok(Self { receipt, binding });
                    }
                    None
                }
                Ok(_) => Some(BindingError::OtherNode),
                Err(why) => Some(why),
            },
        };
        let operator = match (file::existing(folder, OPERATOR_KEY)?, known, why) {
            (Some(secret), ..) => secret,
            (None, Some(signed), Some(why)) => {
                return Err(KeyRingError::NotRenewable { operator: signed.facts().operator, why });
            }
            (None, ..) => file::secret_in(folder, OPERATOR_KEY)?,
        };
        let operator = operator_key(folder, operator)?;
        let facts = facts(node.node_id(), operator.address(), &receipt, known.as_ref(), now_unix_s);
        let signed = facts.sign_with_both(node, &operator);
        let binding = signed.verify(now_unix_s).map_err(KeyRingError::Refused)?;
        write_binding(folder, BINDING, &signed)?;
        Ok(Self { receipt, binding })
    }

    /// Keys that are kept nowhere, for one run.
    pub fn fresh(node: &NodeKey, now_unix_s: u64) -> Result<Self, KeyRingError> {
        let nowhere = Path::new("");
        let receipt = receipt_key(nowhere, file::draw()?)?;
        let operator = operator_key(nowhere, file::draw()?)?;
        let facts = facts(node.node_id(), operator.address(), &receipt, None, now_unix_s);
        let binding = facts.sign_with_both(node, &operator).verify(now_unix_s);
        Ok(Self { receipt, binding: binding.map_err(KeyRingError::Refused)? })
    }

    /// Signs receipts.
    pub const fn receipt(&self) -> &ReceiptKey {
        &self.receipt
    }

    /// To whom it is bound.
    pub const fn binding(&self) -> &VerifiedBinding {
        &self.binding
    }
}

/// Takes a new receipt key, bound by the operator whose key is here: the old one is moved to `receipt.key.old`.
///
/// # Errors
/// As [`KeyRing::open`]; [`KeyRingError::NotRenewable`] where the operator signs elsewhere, before anything is changed.
pub fn rotate(folder: &Path, node: &NodeKey, now_unix_s: u64) -> Result<KeyRing, KeyRingError> {
    let before = KeyRing::open(folder, node, now_unix_s)?;
    if file::existing(folder, OPERATOR_KEY)?.is_none() {
        let operator = before.binding().binding().operator;
        return Err(KeyRingError::NotRenewable { operator, why: BindingError::OtherNode });
    }
    let path = folder.join(RECEIPT_KEY);
    fs::rename(&path, folder.join(format!("{RECEIPT_KEY}.old"))).map_err(io_at(&path))?;
    KeyRing::open(folder, node, now_unix_s)
}

/// What an operator elsewhere has to sign.
#[derive(Clone, Copy, Debug)]
pub struct Request(KeyBinding);

impl Request {
    /// The facts.
    pub const fn facts(&self) -> &KeyBinding {
        &self.0
    }

    /// As EIP-712 typed data in JSON, as wallets take it (`eth_signTypedData_v4`).
    pub fn typed_data(&self) -> String {
        let KeyBinding { node, operator, receipt, sequence, issued_unix_s, expires_unix_s } = self.0;
        let field = |name: &str, kind: &str| format!(r#"{{"name":"{name}","type":"{kind}"}}"#);
        let fields = [
            ("node", "bytes32"),
            ("operator", "address"),
            ("receipt", "address"),
            ("sequence", "uint64"),
            ("issued", "uint64"),
            ("expires", "uint64"),
        ];
        let fields = fields.map(|(name, kind)| field(name, kind)).join(",");
        let domain = [field("name", "string"), field("version", "string")].join(",");
        format!(
            r#"{{"types":{{"EIP712Domain":[{domain}],"KeyBinding":[{fields}]}},"primaryType":"KeyBinding","domain":{{"name":"Layerlane receipts","version":"1"}},"message":{{"node":"0x{}","operator":"{operator}","receipt":"{receipt}","sequence":"{sequence}","issued":"{issued_unix_s}","expires":"{expires_unix_s}"}}}}"#,
            node.to_hex(),
        )
    }
}

/// Asks for a binding to an operator that signs elsewhere; what was asked for is remembered until [`bind`].
pub fn request(
    folder: &Path,
    node: &NodeKey,
    operator: Address,
    now_unix_s: u64,
) -> Result<Request, KeyRingError> {
    let receipt = receipt_key(folder, file::secret_in(folder, RECEIPT_KEY)?)?;
    let known = read_binding(folder)?;
    let facts = facts(node.node_id(), operator, &receipt, known.as_ref(), now_unix_s);
    // The operator's signature is not there yet: the place holds one of the receipt key, which does not hold.
    let draft = facts.sign(node, receipt.sign(&facts.digest()));
    write_binding(folder, REQUESTED, &draft)?;
    Ok(Request(facts))
}

/// Makes what was asked for last the binding, with the operator's signature in `0x` hexadecimal.
pub fn bind(
    folder: &Path,
    node: &NodeKey,
    signature: &str,
    now_unix_s: u64,
) -> Result<VerifiedBinding, KeyRingError> {
    let asked = read(folder, REQUESTED)?.ok_or(KeyRingError::NothingAsked)?;
    let hex = signature.trim().trim_start_matches("0x");
    let mut bytes = [0; 65];
    let whole = hex::decode_to_slice(hex, &mut bytes).is_ok();
    if !whole {
        return Err(KeyRingError::NotHex);
    }
    let signature = RecoverableSignature::from_bytes(&bytes)?;
    let signed = asked.facts().sign(node, signature);
    let binding = signed.verify(now_unix_s).map_err(KeyRingError::Refused)?;
    write_binding(folder, BINDING, &signed)?;
    let path = folder.join(REQUESTED);
    fs::remove_file(&path).map_err(io_at(&path))?;
    // An operator key that was made here is not this node's operator any more.
    let own = folder.join(OPERATOR_KEY);
    if let Some(secret) = file::existing(folder, OPERATOR_KEY)?
        && operator_key(folder, secret)?.address() != binding.binding().operator
    {
        fs::rename(&own, folder.join(format!("{OPERATOR_KEY}.old"))).map_err(io_at(&own))?;
    }
    Ok(binding)
}

fn facts(
    node: NodeId,
    operator: Address,
    receipt: &ReceiptKey,
    known: Option<&SignedBinding>,
    now_unix_s: u64,
) -> KeyBinding {
    // By the clock, so that it rises even where the binding before was lost.
    let next = known.map_or(0, |known| known.facts().sequence.saturating_add(1));
    KeyBinding {
        node,
        operator,
        receipt: receipt.address(),
        sequence: next.max(now_unix_s),
        issued_unix_s: now_unix_s,
        expires_unix_s: now_unix_s.saturating_add(LIFE_S),
    }
}

fn receipt_key(folder: &Path, secret: Secret) -> Result<ReceiptKey, KeyRingError> {
    ReceiptKey::from_bytes(&secret).map_err(|_| KeyRingError::NoKey(folder.join(RECEIPT_KEY)))
}

fn operator_key(folder: &Path, secret: Secret) -> Result<OperatorKey, KeyRingError> {
    OperatorKey::from_bytes(&secret).map_err(|_| KeyRingError::NoKey(folder.join(OPERATOR_KEY)))
}

fn read_binding(folder: &Path) -> Result<Option<SignedBinding>, KeyRingError> {
    read(folder, BINDING)
}

/// What does not parse counts as missing: a binding can be made again.
fn read(folder: &Path, name: &str) -> Result<Option<SignedBinding>, KeyRingError> {
    let path = folder.join(name);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(KeyRingError::Io { path, source }),
    };
    let bytes = hex::decode(text.trim()).unwrap_or_default();
    Ok(SignedBinding::decode(&bytes).ok())
}

/// Written whole under another name and renamed: a crash leaves the old one or the new one.
fn write_binding(folder: &Path, name: &str, binding: &SignedBinding) -> Result<(), KeyRingError> {
    let (path, draft) = (folder.join(name), folder.join(format!("{name}.{}", std::process::id())));
    let written = fs::File::create(&draft).and_then(|mut file| {
        file.write_all(hex::encode(binding.encode()).as_bytes())?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&draft, &path)).map_err(io_at(&path))
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> KeyRingError {
    let path = path.to_owned();
    move |source| KeyRingError::Io { path, source }
}

/// A binding that waits for its operator's signature.
const REQUESTED: &str = "binding.requested";
/// A year.
const LIFE_S: u64 = 365 * 24 * 3600;
/// A month: who is started once in a while renews in time.
const RENEWED_BEFORE_S: u64 = 30 * 24 * 3600;

#[cfg(test)]
mod tests;
