//! The team of compute threads of a stage: `shim/team.cc`. Belongs to the thread that made it and ends with it.

use std::ffi::c_int;

use super::TorchError;

/// Gives the calling thread a team of `threads` for the shim's kernels, itself among them.
#[expect(unsafe_code, reason = "calls the shim")]
pub(crate) fn team(threads: usize) -> Result<(), TorchError> {
    let threads = c_int::try_from(threads).unwrap_or(c_int::MAX);
    // SAFETY: a number; the shim catches what the system refuses.
    match unsafe { ll_team(threads) } {
        0 => Err(TorchError(format!("{threads} compute threads could not be started").into())),
        _ => Ok(()),
    }
}

/// A step is over: the other threads of the team sleep instead of waiting awake for the next operator.
#[expect(unsafe_code, reason = "calls the shim")]
pub(crate) fn team_rest() {
    // SAFETY: no arguments; does nothing without a team.
    unsafe { ll_team_rest() }
}

/// A step is near: the other threads wake, while this one prepares it.
#[expect(unsafe_code, reason = "calls the shim")]
pub(crate) fn team_rouse() {
    // SAFETY: as above.
    unsafe { ll_team_rouse() }
}

#[expect(unsafe_code, reason = "declares the shim")]
unsafe extern "C" {
    fn ll_team(threads: c_int) -> c_int;
    fn ll_team_rest();
    fn ll_team_rouse();
}
