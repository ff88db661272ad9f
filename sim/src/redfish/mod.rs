//! A BMC that speaks Redfish, written from DMTF's standard (DSP0266) and schemas, and sharing no code with
//! the client in `controller/`, whose mistakes it is to find.
//!
//! What it serves is a mockup as DMTF publishes them: a folder per resource with an `index.json`
//! (`sim/mockups/`, which says where each vendor's habits were learnt). Over it lie what lives: sessions,
//! accounts, power, the boot override. [`Vendor`] is what a vendor does otherwise, [`Faults`] what goes
//! wrong and may change at any time, [`Counts`] what it was asked.

mod collections;
mod http;
mod machine;
mod server;
mod service;
mod tls;
mod tree;

pub use self::{
    machine::{Machine, Node, Plain},
    server::Server,
    service::{Counts, Faults},
    tls::Tls,
    tree::Vendor,
};

/// How a BMC is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// Whose BMC it is.
    pub vendor: Vendor,
    /// Its accounts.
    pub users: Vec<User>,
    /// Sessions that it can have at the same time.
    pub sessions: usize,
    /// Whether it takes an account with each request too (HTTP Basic).
    pub basic: bool,
}

/// An account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its password.
    pub password: String,
    /// `Administrator`, `Operator` or `ReadOnly`.
    pub role: &'static str,
}

impl Setup {
    /// One administrator.
    pub fn new(vendor: Vendor, name: &str, password: &str) -> Self {
        let user =
            User { name: name.to_owned(), password: password.to_owned(), role: "Administrator" };
        Self { vendor, users: vec![user], sessions: 4, basic: true }
    }
}
