//! Passwords of people: argon2id (RFC 9106), with the crate's parameters (19 MiB, 2 passes). A hash
//! takes some tens of milliseconds of a processor, so few are made at a time.

use std::sync::LazyLock;

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use haas_api::user::Password;
use tokio::sync::Semaphore;

static SLOTS: Semaphore = Semaphore::const_new(2);

/// What a password is compared with where there is none, so that nobody can tell by the time it takes.
static NOBODY: LazyLock<String> =
    LazyLock::new(|| make(&Password::new("nobody at all".to_owned())));

/// What is wrong with a password that somebody wants to have.
pub fn problem(password: &Password, name: &str) -> Option<&'static str> {
    let text = password.expose();
    match text.len() {
        0..10 => Some("a password has at least 10 characters"),
        1025.. => Some("a password has at most 1024 bytes"),
        _ if text.contains(name) && text.len() < name.len() + 10 => {
            Some("a password is not made of the user's name")
        }
        _ => None,
    }
}

/// The hash to be kept.
pub async fn hash(password: Password) -> String {
    in_turn(move || make(&password)).await
}

/// Whether this is the password that was hashed. Takes as long where there is none.
pub async fn is_right(password: Password, kept: Option<String>) -> bool {
    in_turn(move || {
        let is_there = kept.is_some();
        let kept = kept.unwrap_or_else(|| NOBODY.clone());
        let is_right = PasswordHash::new(&kept).is_ok_and(|kept| {
            Argon2::default().verify_password(password.expose().as_bytes(), &kept).is_ok()
        });
        is_there && is_right
    })
    .await
}

fn make(password: &Password) -> String {
    let hash = Argon2::default().hash_password(password.expose().as_bytes());
    hash.expect("the default parameters and a salt of the system's random numbers are valid")
        .to_string()
}

async fn in_turn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let _slot = SLOTS.acquire().await.expect("it is never closed");
    tokio::task::spawn_blocking(work).await.expect("hashing does not panic")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        Password::new(text.to_owned())
    }

    #[tokio::test]
    async fn only_the_right_password_of_somebody_who_has_one_is_right() {
        let kept = hash(password("correct horse")).await;
        assert!(kept.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{kept}");
        assert_ne!(kept, hash(password("correct horse")).await, "no salt");
        assert!(is_right(password("correct horse"), Some(kept.clone())).await);
        assert!(!is_right(password("correct horsf"), Some(kept)).await);
        assert!(!is_right(password("nobody at all"), None).await);
        assert!(!is_right(password("anything"), Some("no hash".to_owned())).await);
    }

    #[test]
    fn weak_passwords_are_refused() {
        for weak in ["short", "", "alice12345"] {
            assert!(problem(&password(weak), "alice").is_some(), "{weak}");
        }
        assert!(problem(&password(&"x".repeat(1025)), "alice").is_some());
        assert_eq!(problem(&password("correct horse"), "alice"), None);
    }
}
