//! Which certificate a BMC must have. BMCs sign theirs by themselves, so that the usual way is its
//! fingerprint; the other is a file of authorities. There is no third one: what is not verified is not
//! spoken to, and the account's password leaves haasd only after the certificate was accepted.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use haas_api::pin::fingerprint;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};

use super::fault::RedfishFault;

/// Which certificate is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Trust {
    /// The one with this SHA-256, 64 hexadecimal digits in lower case.
    Fingerprint(String),
    /// One that these authorities vouch for, in PEM.
    Authorities(Vec<u8>),
    /// None: its fingerprint is looked at, and the connection ended before anything is sent.
    Look,
}

/// The verifier of one BMC's connections.
pub(super) struct Verifier {
    trust: Trust,
    authorities: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
    /// Why a certificate was refused, for whoever reads the error of a connection.
    refused: Mutex<Option<RedfishFault>>,
    seen: Mutex<Option<String>>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("trust", &self.trust).finish_non_exhaustive()
    }
}

impl Verifier {
    pub(super) fn new(trust: Trust) -> Result<Arc<Self>, RedfishFault> {
        let provider = Arc::new(ring::default_provider());
        let authorities = match &trust {
            Trust::Authorities(pem) => Some(authorities(pem, &provider)?),
            Trust::Fingerprint(_) | Trust::Look => None,
        };
        let (refused, seen) = (Mutex::default(), Mutex::default());
        Ok(Arc::new(Self { trust, authorities, provider, refused, seen }))
    }

    pub(super) fn config(self: &Arc<Self>) -> Result<ClientConfig, RedfishFault> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| RedfishFault::Tls(error.to_string()))?;
        let verifier = Arc::clone(self);
        Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
    }

    /// Why the last certificate was refused, if one was since the last call.
    pub(super) fn take_refusal(&self) -> Option<RedfishFault> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The fingerprint of the certificate that the BMC showed last.
    pub(super) fn seen(&self) -> Option<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn refuse(&self, fault: RedfishFault) -> Error {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
        Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
    }
}

fn authorities(
    pem: &[u8],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, RedfishFault> {
    let wrong = |what: String| RedfishFault::CaFile(what);
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|e| wrong(format!("it is no PEM: {e}")))?;
        roots.add(certificate).map_err(|e| wrong(format!("a certificate in it is odd: {e}")))?;
    }
    if roots.is_empty() {
        return Err(wrong("it holds no certificate in PEM".to_owned()));
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|e| wrong(e.to_string()))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let seen = fingerprint(end_entity);
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen.clone());
        match &self.trust {
            Trust::Look => Err(self.refuse(RedfishFault::Tls("it was only looked at".to_owned()))),
            Trust::Fingerprint(pinned) if *pinned == seen => Ok(ServerCertVerified::assertion()),
            Trust::Fingerprint(pinned) => {
                Err(self.refuse(RedfishFault::OtherCertificate { seen, pinned: pinned.clone() }))
            }
            Trust::Authorities(_) => {
                let Some(authorities) = &self.authorities else {
                    return Err(self.refuse(RedfishFault::CaFile("it was not read".to_owned())));
                };
                authorities
                    .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
                    .map_err(|error| {
                        self.refuse(RedfishFault::NotTrusted { seen, why: error.to_string() })
                    })
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
