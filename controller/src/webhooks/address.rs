//! Which addresses haasd sends events to. Who may add a webhook is no root on the controller: what
//! listens to the controller itself, to its nodes or to a cloud's metadata service only is not
//! reached through haasd.

use std::{net::IpAddr, sync::Arc};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

use crate::config::Config;

/// Whether events can be sent there, as far as the text tells; why not.
pub fn check_url(config: &Config, text: &str) -> Result<(), String> {
    let url: Url = text.parse().map_err(|e| format!("it is no URL: {e}"))?;
    if !["http", "https"].contains(&url.scheme()) {
        return Err("it must begin with https:// or http://".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "a user or password in it would be shown; requests are signed instead".to_owned()
        );
    }
    if text.len() > 2_000 || url.fragment().is_some() {
        return Err("it must be shorter than 2,000 bytes and have no fragment".to_owned());
    }
    let host = url.host_str().unwrap_or_default();
    match literal(host) {
        Some(ip) => check(config, ip),
        None if host.is_empty() => Err("it names no host".to_owned()),
        None => Ok(()),
    }
}

/// The address that a URL's host is by itself.
pub(super) fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Whether events may be sent to this address; why not.
pub(super) fn check(config: &Config, ip: IpAddr) -> Result<(), String> {
    let ip = ip.to_canonical();
    let allow = &config.webhooks.allow;
    let may = if allow.is_empty() {
        is_common(ip) && !config.networks.iter().any(|network| is_in(&network.cidr, ip))
    } else {
        allow.iter().any(|network| network.contains(&ip))
    };
    if may {
        return Ok(());
    }
    Err(format!("haasd does not send to {ip}; [webhooks] allow in haasd.toml says where to"))
}

fn is_in(network: &ipnet::Ipv4Net, ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if network.contains(&ip))
}

/// Whether it is an address of some machine elsewhere.
fn is_common(ip: IpAddr) -> bool {
    let odd = match ip {
        IpAddr::V4(ip) => {
            let first = ip.octets()[0];
            ip.is_link_local() || ip.is_broadcast() || first == 0 || first >= 224
        }
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !odd && !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast()
}

/// Resolves names to addresses that events may be sent to, anew for each connection: a name may
/// mean another address by then.
#[derive(Debug)]
pub(super) struct Allowed(pub(super) Arc<Config>);

impl Resolve for Allowed {
    fn resolve(&self, name: Name) -> Resolving {
        let config = self.0.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let (mut good, mut why) = (Vec::new(), None);
            for address in found {
                match check(&config, address.ip()) {
                    Ok(()) => good.push(address),
                    Err(refusal) => why = Some(refusal),
                }
            }
            match why {
                Some(why) if good.is_empty() => Err(why.into()),
                Some(_) | None => Ok(Box::new(good.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Bench;

    #[tokio::test]
    async fn nothing_is_sent_to_what_only_the_controller_reaches() {
        let bench = Bench::new().await;
        let mut config = bench.context.config.clone();
        config.networks[0].cidr = "10.77.0.0/24".parse().unwrap();
        let may = |config: &Config, url: &str| check_url(config, url);
        for url in [
            "http://127.0.0.1:9/",
            "http://localhost.localdomain@10.0.0.1/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://169.254.169.254/latest/",
            "http://[fe80::1]/",
            "http://0.0.0.0/",
            "http://224.0.0.1/",
            "http://255.255.255.255/",
            "http://10.77.0.9/",
            "http://2130706433/",
            "http://0x7f.1/",
            "ftp://10.0.0.1/",
            "https:///",
            "nonsense",
            "http://user:secret@10.0.0.1/",
            "http://10.0.0.1/#part",
        ] {
            assert!(may(&config, url).is_err(), "{url}");
        }
        for url in ["https://hooks.example/haas", "http://10.0.0.9:8080/x?y", "http://[fd00::9]/"] {
            assert_eq!(may(&config, url), Ok(()), "{url}");
        }
        config.webhooks.allow = vec!["127.0.0.0/8".parse().unwrap()];
        assert_eq!(may(&config, "http://127.0.0.1:9/"), Ok(()));
        assert!(may(&config, "http://10.0.0.9:8080/").is_err(), "only what is allowed is");
    }

    #[tokio::test]
    async fn a_name_that_means_a_forbidden_address_is_not_connected_to() {
        let bench = Bench::new().await;
        let resolver = Allowed(Arc::new(bench.context.config.clone()));
        let name = "localhost".parse().unwrap();
        let refused = resolver.resolve(name).await.err().expect("it is the controller itself");
        assert!(refused.to_string().contains("does not send to"), "{refused}");
    }
}
