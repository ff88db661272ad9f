//! Serves two files as two targets. Each belongs to one initiator, which must prove that it knows its
//! secret, and which is told of no other: `guarded ADDR:PORT FILE FILE`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use iscsi_target::{
    Admission, Authentication, Chap, ClassLimits, Exports, Grant, Limits, LoginRequest, Lun,
    LunIdentity, Options, Refusal, Secret, SessionObserver, listen, serve,
};
use tokio_util::sync::CancellationToken;

/// Targets by name, each with the initiator that it is for.
struct Guarded(HashMap<String, (String, Arc<Lun>)>);

impl Exports for Guarded {
    fn admit(&self, request: &LoginRequest<'_>) -> Admission {
        let Some((owner, lun)) = self.0.get(request.target) else {
            return Admission::Refused(Refusal::NotFound);
        };
        if request.initiator != owner {
            return Admission::Refused(Refusal::NotAuthorized);
        }
        let secret = Secret::new(format!("the secret of {owner}"));
        Admission::Granted(Grant {
            lun: Arc::clone(lun),
            authentication: Authentication::Required(Chap { user: owner.clone(), secret }),
            class: 0,
            class_limits: ClassLimits::default(),
            limits: Limits::default(),
            observer: Some(Arc::new(Log(owner.clone()))),
        })
    }

    fn discover(&self, initiator: &str, _peer: SocketAddr) -> Vec<String> {
        let own = self.0.iter().filter(|(_, (owner, _))| owner == initiator);
        own.map(|(name, _)| name.clone()).collect()
    }
}

/// Says when a session begins and ends.
#[derive(Debug)]
struct Log(String);

impl SessionObserver for Log {
    fn opened(&self) {
        eprintln!("{} is there", self.0);
    }

    fn closed(&self) {
        eprintln!("{} is gone", self.0);
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let listener = listen(arguments.next().ok_or("which address?")?.parse()?)?;
    let mut targets = HashMap::new();
    for (n, file) in (1..).zip(arguments) {
        let lun = Arc::new(Lun::open(&file, LunIdentity::from_path(&file)?)?);
        let owner = format!("iqn.2026-01.org.example:node{n}");
        targets.insert(format!("iqn.2026-01.org.example:disk{n}"), (owner, lun));
    }
    eprintln!("{} targets on {}", targets.len(), listener.local_addr()?);
    let exports = Arc::new(Guarded(targets));
    serve(vec![listener], exports, Options::default(), CancellationToken::new()).await?;
    Ok(())
}
