//! Passwords of people: argon2id (RFC 9106), with the crate's parameters (19 MiB, 2 passes). A hash
//! takes some tens of milliseconds of a processor, so few are made at a time.

use std::sync::LazyLock;

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use haas_api::user::Password;
use tokio::sync::Semaphore;

/// As many are computed at a time.
static SLOTS: Semaphore = Semaphore::const_new(2);
/// As many are computed or wait for it; more are turned away.
static PLACES: Semaphore = Semaphore::const_new(32);

/// Too many passwords are being computed already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many people log in at this moment; try again in a few seconds")]
pub struct Crowded;

/// What a password is compared with where there is none, so that nobody can tell by the time it takes.
static NOBODY: LazyLock<String> =
    LazyLock::new(|| make(&Password::new("nobody at all".to_owned())));

/// What is wrong with a password that somebody wants to have.
pub fn problem(password: &Password, name: &str) -> Option<&'static str> {
    let text = password.expose();
    match text.len() {
        0..10 => Some("a password has at least 10 bytes"),
        1025.. => Some("a password has at most 1024 bytes"),
        _ if text.contains(name) && text.len() < name.len() + 10 => {
            Some("a password is not made of the user's name")
        }
        _ => None,
    }
}

/// The hash to be kept.
pub async fn hash(password: Password) -> Result<String, Crowded> {
    in_turn(move || make(&password)).await
}

/// Whether this is the password that was hashed. Takes as long where there is none.
pub async fn is_right(password: Password, kept: Option<String>) -> Result<bool, Crowded> {
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

async fn in_turn<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Crowded> {
    let place = PLACES.try_acquire().map_err(|_| Crowded)?;
    let slot = SLOTS.acquire().await.expect("it is never closed");
    let work = move || {
        // Held by the work itself, which goes on when nobody waits for it any more.
        let _held = (place, slot);
        work()
    };
    Ok(tokio::task::spawn_blocking(work).await.expect("hashing does not panic"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        Password::new(text.to_owned())
    }

    #[tokio::test]
    async fn only_the_right_password_of_somebody_who_has_one_is_right() {
        let kept = hash(password("correct horse")).await.unwrap();
        assert!(kept.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{kept}");
        assert_ne!(kept, hash(password("correct horse")).await.unwrap(), "no salt");
        let right = async |word: &str, kept| is_right(password(word), kept).await.unwrap();
        assert!(right("correct horse", Some(kept.clone())).await);
        assert!(!right("correct horsf", Some(kept)).await);
        assert!(!right("nobody at all", None).await);
        assert!(!right("anything", Some("no hash".to_owned())).await);
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
