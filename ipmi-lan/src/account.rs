//! Who logs in at a BMC, and with what.

use std::fmt;

use crate::suite::Suites;

/// IPMI 2.0 section 22.28: a user name has at most 16 bytes.
const LONGEST_USER: usize = 16;
/// Sections 13.33 and 22.30: passwords and K_g have 20 bytes.
pub(crate) const KEY: usize = 20;

/// An account of a BMC and how it is used. `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    pub(crate) user: String,
    pub(crate) password: Vec<u8>,
    pub(crate) kg: Option<[u8; KEY]>,
    pub(crate) privilege: Privilege,
    pub(crate) suites: Suites,
}

/// Why an account cannot be used, whatever the BMC says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// The name does not fit.
    #[error("the user's name must have 1 to 16 bytes")]
    User,
    /// The password does not fit. Cutting it would be another password.
    #[error("the password is longer than IPMI's 20 bytes")]
    Password,
    /// The key is neither text nor hexadecimal that fits.
    #[error("K_g must have 1 to 20 bytes, or be 0x and at most 40 hexadecimal digits")]
    Kg,
}

/// What a session may do (section 6.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Privilege {
    /// Look, not touch.
    User,
    /// Switch power, use the console.
    Operator,
    /// Everything.
    Administrator,
}

impl Privilege {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::User => 2,
            Self::Operator => 3,
            Self::Administrator => 4,
        }
    }
}

impl fmt::Display for Privilege {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "USER",
            Self::Operator => "OPERATOR",
            Self::Administrator => "ADMINISTRATOR",
        })
    }
}

impl Account {
    /// An account with the privilege ADMINISTRATOR, no K_g, and the best cipher suite that the BMC
    /// has.
    ///
    /// # Errors
    /// When name or password do not fit into IPMI 2.0.
    pub fn new(user: &str, password: &str) -> Result<Self, AccountError> {
        if user.is_empty() || user.len() > LONGEST_USER {
            return Err(AccountError::User);
        }
        if password.len() > KEY {
            return Err(AccountError::Password);
        }
        Ok(Self {
            user: user.to_owned(),
            password: password.as_bytes().to_vec(),
            kg: None,
            privilege: Privilege::Administrator,
            suites: Suites::Best,
        })
    }

    /// The BMC's own key, as text or as `0x` and hexadecimal digits. One that is all zeros is none
    /// (section 13.31).
    ///
    /// # Errors
    /// When it does not fit.
    pub fn with_kg(self, kg: &str) -> Result<Self, AccountError> {
        let bytes = match kg.strip_prefix("0x") {
            Some(digits) => hex::decode(digits).map_err(|_| AccountError::Kg)?,
            None => kg.as_bytes().to_vec(),
        };
        if bytes.is_empty() || bytes.len() > KEY {
            return Err(AccountError::Kg);
        }
        let mut key = [0; KEY];
        for (to, from) in key.iter_mut().zip(bytes) {
            *to = from;
        }
        Ok(Self { kg: (key != [0; KEY]).then_some(key), ..self })
    }

    /// Asks for this privilege instead.
    #[must_use]
    pub fn with_privilege(self, privilege: Privilege) -> Self {
        Self { privilege, ..self }
    }

    /// Takes these cipher suites only.
    #[must_use]
    pub fn with_suites(self, suites: Suites) -> Self {
        Self { suites, ..self }
    }

    /// The role byte of RAKP message 1 (section 13.20): the privilege, and the bit that says to
    /// look the user up by name alone.
    pub(crate) fn role(&self) -> u8 {
        0x10 | self.privilege.code()
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("user", &self.user)
            .field("kg", &self.kg.map(|_| "***"))
            .field("privilege", &self.privilege)
            .field("suites", &self.suites)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_and_never_cut() {
        assert_eq!(Account::new("", "x"), Err(AccountError::User));
        assert_eq!(Account::new("seventeen-letters", "x"), Err(AccountError::User));
        assert_eq!(Account::new("admin", "twenty-one-letters-xx"), Err(AccountError::Password));
        let account = Account::new("admin", "").unwrap();
        for wrong in ["", "0x", "0xabc", "0xgg", "twenty-one-letters-xx"] {
            assert_eq!(account.clone().with_kg(wrong), Err(AccountError::Kg), "{wrong}");
        }
    }

    #[test]
    fn a_key_of_zeros_is_none_and_hexadecimal_is_bytes() {
        let account = Account::new("admin", "").unwrap();
        assert_eq!(account.clone().with_kg("0x0000").unwrap().kg, None);
        let mut key = [0; KEY];
        key[..2].copy_from_slice(b"ab");
        assert_eq!(account.clone().with_kg("0x6162").unwrap().kg, Some(key));
        assert_eq!(account.with_kg("ab").unwrap().kg, Some(key));
    }

    #[test]
    fn debug_shows_no_secret() {
        let account = Account::new("admin", "hunter2").unwrap().with_kg("the-key").unwrap();
        let shown = format!("{account:?}");
        assert!(shown.contains("admin"), "{shown}");
        assert!(!shown.contains("hunter2") && !shown.contains("the-key"), "{shown}");
    }
}
