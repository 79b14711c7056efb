//! Commands on their way to the device, and results on their way back. This layer names only the layers below it, `device` and `kept`.
//! Each file names only files listed before it.

pub(super) mod list;
pub(super) mod marks;
pub(super) mod waiter;
pub(super) mod watch;

pub(super) mod handle;

pub(super) mod recorder;

pub(super) mod readback;

pub(super) mod profile;
pub(super) mod tuned;

pub use self::handle::GpuDevice;
