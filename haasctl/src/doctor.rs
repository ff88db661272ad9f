//! `doctor`: what may keep haasd from its work.

use clap::Args;
use haas_api::{
    List,
    doctor::{Finding, has_wrong, summary},
};

use crate::{cli::Session, error::Error};

#[derive(Debug, Args)]
#[command(after_help = "\
haasd that does not start is looked at on its own machine: haasd doctor

Examples:
  haasctl doctor
  haasctl doctor -o json")]
pub(crate) struct DoctorArgs {}

impl DoctorArgs {
    pub(crate) async fn run(self, session: &Session<'_>) -> Result<(), Error> {
        let list = List::whole(session.client()?.doctor().await?);
        session.out.show_text(&list, || text(&list.items))?;
        match has_wrong(&list.items) {
            true => Err(Error::Failed(summary(&list.items))),
            false => Ok(()),
        }
    }
}

/// What is wrong last, where the eye is.
fn text(findings: &[Finding]) -> String {
    let mut sorted: Vec<_> = findings.iter().collect();
    sorted.sort_by_key(|finding| finding.state);
    let mut lines: Vec<_> = sorted.into_iter().flat_map(Finding::lines).collect();
    lines.push(summary(findings));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_says_what_and_why_and_what_to_do() {
        let down = "br0 is down";
        let findings = [
            Finding::wrong("interfaces", down, "no node boots", "ip link set br0 up".to_owned()),
            Finding::good("clock", "it is kept by a time server"),
        ];
        assert_eq!(
            text(&findings),
            "good     clock: it is kept by a time server\n\
             wrong    interfaces: br0 is down\n\
             \x20        why: no node boots\n\
             \x20        do:  ip link set br0 up\n\
             1 thing is wrong, 0 warnings, 1 good"
        );
    }
}
