//! The one call of the doctor that no safe wrapper covers.
#![allow(unsafe_code)]

/// Whether a time server keeps the kernel's clock (adjtimex(2)), where the kernel says so.
pub(super) fn clock_is_set() -> Option<bool> {
    // SAFETY: a `timex` is plain numbers, for which all zeroes is a value.
    let mut clock: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a `timex` that lives on this stack frame beyond the call; with
    // `modes` 0 the kernel only fills it.
    let state = unsafe { libc::adjtimex(&raw mut clock) };
    (state >= 0).then_some(clock.status & libc::STA_UNSYNC == 0)
}
