//! The keys of an issuer, and what is verified with each. A key fits the algorithms of its own kind and no other, whatever a token says.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::hmac;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RsaPublicKeyComponents,
    UnparsedPublicKey, VerificationAlgorithm,
};

use super::{Algorithm, KEYS_MAX};
use crate::body::{Body, Item, Kind};
use crate::net::tls::element;

/// How many bytes a shared secret must have: less can be guessed from one token.
const SECRET_BYTES_MIN: usize = 32;

/// A key that verifies.
#[derive(Clone)]
pub(super) struct Key {
    /// What tokens call it.
    pub(super) id: Option<String>,
    /// The only algorithm, if the issuer says so.
    only: Option<Algorithm>,
    material: Material,
}

#[derive(Clone)]
enum Material {
    /// Modulus and exponent.
    Rsa(Vec<u8>, Vec<u8>),
    /// A point on P-256, uncompressed.
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
    Secret(hmac::Key),
}

impl Key {
    /// A secret that issuer and engine share.
    pub(super) fn secret(secret: &[u8]) -> Result<Key, String> {
        if secret.starts_with(b"-----BEGIN") {
            return Err("the secret is a key in PEM: a public key is no secret".to_owned());
        }
        if secret.len() < SECRET_BYTES_MIN {
            return Err(format!(
                "the secret has {} bytes; it must have at least {SECRET_BYTES_MIN}",
                secret.len()
            ));
        }
        Ok(Key {
            id: None,
            only: None,
            material: Material::Secret(hmac::Key::new(hmac::HMAC_SHA256, secret)),
        })
    }

    /// A public key in PEM: `BEGIN PUBLIC KEY`.
    pub(super) fn pem(pem: &str) -> Result<Key, String> {
        let inner = pem
            .trim()
            .strip_prefix("-----BEGIN PUBLIC KEY-----")
            .and_then(|rest| rest.strip_suffix("-----END PUBLIC KEY-----"));
        let inner = inner.ok_or("the text is no PEM with a `PUBLIC KEY`")?;
        let text: String = inner.split_ascii_whitespace().collect();
        let der = STANDARD.decode(text).ok();
        let material = der.as_deref().and_then(public_key);
        Ok(Key {
            id: None,
            only: None,
            material: material.ok_or("the public key is none of RSA, P-256 and Ed25519")?,
        })
    }

    /// Whether the key may verify this algorithm.
    pub(super) fn fits(&self, algorithm: Algorithm) -> bool {
        use Algorithm::{EdDsa, Es256, Hs256, Ps256, Rs256, Rs384, Rs512};
        let kind = match self.material {
            Material::Rsa(..) => matches!(algorithm, Rs256 | Rs384 | Rs512 | Ps256),
            Material::P256(_) => algorithm == Es256,
            Material::Ed25519(_) => algorithm == EdDsa,
            Material::Secret(_) => algorithm == Hs256,
        };
        kind && self.only.is_none_or(|only| only == algorithm)
    }

    /// Whether the signature over these bytes is of this key.
    pub(super) fn verifies(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
        let public = |by: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(by, key)
                .verify(signed, signature)
                .is_ok()
        };
        match (&self.material, algorithm) {
            (Material::Rsa(n, e), _) => {
                let parameters = match algorithm {
                    Algorithm::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
                    Algorithm::Rs384 => &RSA_PKCS1_2048_8192_SHA384,
                    Algorithm::Rs512 => &RSA_PKCS1_2048_8192_SHA512,
                    Algorithm::Ps256 => &RSA_PSS_2048_8192_SHA256,
                    _ => return false,
                };
                RsaPublicKeyComponents { n, e }
                    .verify(parameters, signed, signature)
                    .is_ok()
            }
            (Material::P256(point), Algorithm::Es256) => public(&ECDSA_P256_SHA256_FIXED, point),
            (Material::Ed25519(key), Algorithm::EdDsa) => public(&ED25519, key),
            (Material::Secret(key), Algorithm::Hs256) => {
                hmac::verify(key, signed, signature).is_ok()
            }
            _ => false,
        }
    }
}

/// The keys of a JSON Web Key Set that are for signatures and of a kind that is known; others are passed over. At most so many.
pub(super) fn set(text: &[u8]) -> Result<Vec<Key>, String> {
    let body = Body::new(text.to_vec());
    let root = body.document().map_err(|failure| failure.message)?;
    let keys = root.get("keys").filter(|keys| keys.kind() == Kind::List);
    let keys = keys.ok_or("it has no list `keys`")?;
    let found: Vec<Key> = keys.items().filter_map(jwk).take(KEYS_MAX).collect();
    match found.is_empty() {
        true => Err("it has no key that signatures can be verified with".to_owned()),
        false => Ok(found),
    }
}

fn jwk(item: Item<'_>) -> Option<Key> {
    let text = |name: &str| Some(item.get(name)?.as_str()?.into_owned());
    let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
    let verifies = |operations: Item<'_>| {
        operations
            .items()
            .any(|operation| operation.as_str().as_deref() == Some("verify"))
    };
    if item
        .get("use")
        .is_some_and(|usage| usage.as_str().as_deref() != Some("sig"))
        || !item.get("key_ops").is_none_or(verifies)
    {
        return None;
    }
    let material = match (text("kty")?.as_str(), text("crv").as_deref()) {
        ("RSA", _) => Material::Rsa(bare(bytes("n")?), bare(bytes("e")?)),
        ("EC", Some("P-256")) => {
            let (x, y) = (bytes("x")?, bytes("y")?);
            (x.len() == 32 && y.len() == 32).then(|| Material::P256([&[4][..], &x, &y].concat()))?
        }
        ("OKP", Some("Ed25519")) => Material::Ed25519(bytes("x")?),
        _ => return None,
    };
    let only = match text("alg") {
        Some(name) => Some(Algorithm::from_name(&name)?),
        None => None,
    };
    Some(Key {
        id: text("kid"),
        only,
        material,
    })
}

/// A number without leading zeros.
fn bare(mut number: Vec<u8>) -> Vec<u8> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.drain(..zeros);
    number
}

/// What a `SubjectPublicKeyInfo` holds.
fn public_key(der: &[u8]) -> Option<Material> {
    const RSA: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x01];
    const EC: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01];
    const P256: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07];
    const ED25519: &[u8] = &[0x2B, 0x65, 0x70];
    let (_, whole, _) = element(der)?;
    let (_, kind, rest) = element(whole)?;
    let (_, bits, _) = element(rest)?;
    let key = bits.strip_prefix(&[0])?;
    let (_, kind, parameters) = element(kind)?;
    match kind {
        RSA => {
            let (_, numbers, _) = element(key)?;
            let (_, n, rest) = element(numbers)?;
            let (_, e, _) = element(rest)?;
            Some(Material::Rsa(bare(n.to_vec()), bare(e.to_vec())))
        }
        EC => {
            let (_, curve, _) = element(parameters)?;
            let plain = curve == P256 && key.len() == 65 && key[0] == 4;
            plain.then(|| Material::P256(key.to_vec()))
        }
        ED25519 => Some(Material::Ed25519(key.to_vec())),
        _ => None,
    }
}
