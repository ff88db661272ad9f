//! Why a request did not succeed, sorted by what the caller can do about it.

use std::error::Error;

use crate::problem::Problem;

/// Why a request did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// haasd answered, and said no. Boxed, since it is much larger than the rest.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// haasd did not answer, or not to the end.
    #[error("haasd at {url} cannot be reached")]
    Unreachable {
        /// Where it should be.
        url: String,
        /// What the network said.
        #[source]
        source: reqwest::Error,
    },
    /// haasd ended the event stream: it restarts, or this reader was too slow.
    #[error("haasd at {url} ended the stream")]
    Ended {
        /// Where it is.
        url: String,
    },
    /// Somebody answered who does not hold the pinned certificate.
    #[error(
        "haasd at {url} shows another certificate than the pinned one: {reason}. If its certificate \
         was renewed, take the new fingerprint from haasd's log and add the context again; if not, \
         somebody stands in between"
    )]
    WrongCertificate {
        /// Where it should be.
        url: String,
        /// Both fingerprints, in a sentence.
        reason: String,
    },
    /// What came back is not what this client understands.
    #[error("haasd at {url} speaks something else than this client: {reason}")]
    Protocol {
        /// Who said it.
        url: String,
        /// What was wrong with it.
        reason: String,
    },
    /// URL, fingerprint or token are not usable; nothing was sent.
    #[error("{0}")]
    Setup(String),
}

impl ClientError {
    /// Whether the same request may succeed later by itself: haasd is away, starts or is busy.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Ended { .. } => true,
            Self::Problem(problem) => matches!(problem.status, 429 | 502 | 503 | 504),
            Self::WrongCertificate { .. } | Self::Protocol { .. } | Self::Setup(_) => false,
        }
    }
}

/// What a failed exchange means.
pub(super) fn classify(url: &str, pinned: &str, source: reqwest::Error) -> ClientError {
    let source = source.without_url();
    let url = url.to_owned();
    if let Some(reason) = certificate_refused(&source, pinned) {
        return ClientError::WrongCertificate { url, reason };
    }
    // An answer that breaks off is a decode error to reqwest; nothing else of ours is, since JSON is
    // not decoded by it.
    if source.is_builder() {
        return ClientError::Protocol { url, reason: chain(&source) };
    }
    ClientError::Unreachable { url, source }
}

/// The verifier's own sentence, if it is what ended the connection.
fn certificate_refused(error: &(dyn Error + 'static), pinned: &str) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(rustls::Error::General(said)) = tls_error(error)
            && said.contains(pinned)
        {
            return Some(said.clone());
        }
        next = error.source();
    }
    None
}

/// The TLS error that this is or wraps. An `io::Error` hides the error inside it from `source()`,
/// and on its way up a TLS error is wrapped in several.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    match error.downcast_ref::<std::io::Error>() {
        Some(wrapper) => tls_error(wrapper.get_ref()?),
        None => error.downcast_ref(),
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
