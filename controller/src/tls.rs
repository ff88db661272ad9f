//! The certificate of the API: made at the first start, signed by itself, and trusted by its
//! SHA-256 alone (haasctl's context, the agents' command line).

use std::{path::Path, sync::Arc};

use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};

use crate::tokens::write_private;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The files in the state directory.
    #[error("cannot read or write the certificate in {path}")]
    File {
        /// The folder.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
    /// Certificate and key do not fit.
    #[error("the certificate cannot be used")]
    Use(#[from] rustls::Error),
}

/// The API's TLS configuration, and the SHA-256 of its certificate in hexadecimal. Certificate and
/// key are `tls.cert` and `tls.key` in `folder`, in DER.
pub fn open(folder: &Path) -> Result<(Arc<ServerConfig>, String), TlsError> {
    let file = |source| TlsError::File { path: folder.to_owned(), source };
    let (cert_path, key_path) = (folder.join("tls.cert"), folder.join("tls.key"));
    if !cert_path.exists() || !key_path.exists() {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec!["haasd".to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, "haasd");
        // Nobody looks at the dates: what counts is the fingerprint.
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(4096, 1, 1);
        let cert = params.self_signed(&key)?;
        write_private(&key_path, &key.serialize_der()).map_err(file)?;
        write_private(&cert_path, cert.der()).map_err(file)?;
    }
    let cert = std::fs::read(&cert_path).map_err(file)?;
    let key = std::fs::read(&key_path).map_err(file)?;
    let fingerprint = haas_api::pin::fingerprint(&cert);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from(cert)],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key)),
        )?;
    Ok((Arc::new(config), fingerprint))
}
