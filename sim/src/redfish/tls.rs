//! The certificate of a BMC: signed by itself, as most are, or by an authority.

use std::sync::Arc;

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use sha2::{Digest, Sha256};

/// A certificate and its key.
#[derive(Debug, Clone)]
pub struct Tls {
    pub(super) config: Arc<ServerConfig>,
    fingerprint: String,
    authority: Option<String>,
}

impl Tls {
    /// Signed by itself, for a name that nobody asks for.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn self_signed() -> Result<Self> {
        let key = KeyPair::generate()?;
        let certificate = params("bmc")?.self_signed(&key)?;
        Self::new(certificate.der().clone(), &key, None)
    }

    /// For `name`, by an authority of its own.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn by_authority(name: &str) -> Result<Self> {
        let authority_key = KeyPair::generate()?;
        let mut authority = params("authority")?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = authority.self_signed(&authority_key)?.pem();
        let issuer = Issuer::new(authority, authority_key);
        let key = KeyPair::generate()?;
        let certificate = params(name)?.signed_by(&key, &issuer)?;
        Self::new(certificate.der().clone(), &key, Some(pem))
    }

    fn new(
        certificate: CertificateDer<'static>,
        key: &KeyPair,
        authority: Option<String>,
    ) -> Result<Self> {
        let fingerprint = hex::encode(Sha256::digest(&certificate));
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        Ok(Self { config: Arc::new(config), fingerprint, authority })
    }

    /// The certificate's SHA-256.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The authority's certificate in PEM, if there is one.
    pub fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }
}

fn params(name: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}
