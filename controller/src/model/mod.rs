//! Plain data: what the store holds and what decisions are taken on. No SQL, no I/O, no clock.
//!
//! Times are microseconds: `…_at` of the steady clock (`clock.rs`) where something is measured from
//! it, wall clock only where people read it.

/// A microsecond count, of the clock that the field's documentation names.
pub type Micros = i64;

/// Microseconds in a second.
pub const SECOND: Micros = 1_000_000;

/// An enum that is stored as a word. The words are part of the schema: never change one.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$vdoc])* $variant),* }

        impl $name {
            /// The word in the store, in JSON and in logs.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;
            fn from_str(s: &str) -> Result<Self, String> {
                match s {
                    $($word => Ok(Self::$variant),)*
                    _ => Err(format!("{s:?} is no {}", stringify!($name))),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

mod account;
mod attempt;
mod boot_times;
mod desired;
mod given;
mod hook_call;
mod idle_off;
mod node;
mod operation;
mod reservation;

pub use account::AccountKind;
pub use attempt::{Attempt, AttemptState, Cause};
pub use boot_times::BootTimes;
pub use desired::{BootOnce, Desired, ImageWanted, NewDesired};
pub use given::Given;
pub use hook_call::HookCall;
pub use idle_off::IdleOff;
pub use node::{Drain, DrainState, Ending, Evidence, Fault, Node, Power, Silence, Tried};
pub use operation::{Operation, OperationNode};
pub use reservation::{Assigned, Reservation};
