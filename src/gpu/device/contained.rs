//! Turns the panics of wgpu after a driver's failure into messages.
//!
//! wgpu reports most failures of a driver through error scopes, but panics if a wait or a query of a semaphore fails (`Device::poll`),
//! or if a driver fails while a device is opened. Nothing else in wgpu's public interface waits.

use std::any::Any;
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::ops::Deref;
use std::panic::{self, AssertUnwindSafe, Location};
use std::path::{Component, Path};
use std::pin::pin;
use std::sync::Once;
use std::task::Poll;

/// Success, or the driver's message.
pub(in crate::gpu) type Outcome = Result<(), String>;

/// The origin of a panic inside [`contained`].
#[derive(Clone, Copy, PartialEq, Eq)]
enum Panicked {
    /// The hook has not run: the application has replaced it.
    Unseen,
    /// wgpu, or a crate below it.
    Wgpu,
    /// A callback of the application that wgpu called.
    Application,
}

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
    static PANICKED: Cell<Panicked> = const { Cell::new(Panicked::Unseen) };
}

/// Installs a panic hook that keeps contained panics off standard error. It passes every other panic to the hook that was there before.
///
/// If panics do not unwind, one ends the process and its message must be seen, so no hook is installed.
pub(in crate::gpu) fn silence_contained_panics() {
    static HOOK: Once = Once::new();
    if !cfg!(panic = "unwind") || std::thread::panicking() {
        return;
    }
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if CONTAINED.get() && info.location().is_some_and(is_in_wgpu) {
                PANICKED.set(Panicked::Wgpu);
            } else {
                PANICKED.set(Panicked::Application);
                before(info);
            }
        }));
    });
}

/// Whether a source location belongs to wgpu or to a crate that it builds on.
fn is_in_wgpu(location: &Location<'_>) -> bool {
    Path::new(location.file()).components().any(|component| match component {
        Component::Normal(name) => {
            let name = name.to_string_lossy();
            ["wgpu", "gpu-allocator", "ash-"].iter().any(|prefix| name.starts_with(prefix))
        }
        _ => false,
    })
}

/// Runs calls into wgpu. A panic inside wgpu is returned as its message; a panic of the application's own callbacks goes on.
pub(in crate::gpu) fn contained<T>(calls: impl FnOnce() -> T) -> Result<T, String> {
    let outer = CONTAINED.replace(true);
    PANICKED.set(Panicked::Unseen);
    // The closure is safe to use after a panic: wgpu has released its locks by then, and checks its objects at every use.
    let result = panic::catch_unwind(AssertUnwindSafe(calls));
    CONTAINED.set(outer);
    result.map_err(|payload| {
        if PANICKED.replace(Panicked::Unseen) == Panicked::Application {
            panic::resume_unwind(payload);
        }
        one_line(&message(payload.as_ref()))
    })
}

/// Awaits a future of wgpu. A panic inside wgpu is returned as its message, as by [`contained`].
pub(in crate::gpu) async fn contained_future<T>(future: impl Future<Output = T>) -> Result<T, String> {
    let mut future = pin!(future);
    poll_fn(|task| match contained(|| future.as_mut().poll(task)) {
        Ok(Poll::Ready(value)) => Poll::Ready(Ok(value)),
        Ok(Poll::Pending) => Poll::Pending,
        Err(message) => Poll::Ready(Err(message)),
    })
    .await
}

/// A value of wgpu whose drop may panic, for example a queue after its driver has failed. The panic is contained.
pub(in crate::gpu) struct Contained<T>(Option<T>);

impl<T> Contained<T> {
    pub(in crate::gpu) fn new(value: T) -> Self {
        Self(Some(value))
    }
}

impl<T> Deref for Contained<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.0 {
            Some(value) => value,
            None => unreachable!("only `drop` takes the value"),
        }
    }
}

impl<T> Drop for Contained<T> {
    fn drop(&mut self) {
        // There is no caller left to tell.
        let _ = contained(|| drop(self.0.take()));
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic inside wgpu").to_owned()
}

/// Joins the lines of wgpu's tree of causes to one line.
pub(in crate::gpu) fn one_line(message: &str) -> String {
    let lines: Vec<&str> = message.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join(" ")
}

#[cfg(test)]
mod tests {
    use super::{contained, one_line};

    #[test]
    fn a_value_passes_and_the_applications_own_panic_goes_on() {
        assert_eq!(contained(|| 3), Ok(3));
        super::silence_contained_panics();
        let gone_on = std::panic::catch_unwind(|| contained(|| panic!("the application's own")));
        let payload = gone_on.expect_err("not swallowed");
        assert_eq!(payload.downcast_ref::<&str>(), Some(&"the application's own"));
        assert_eq!(contained(|| contained(|| 4)), Ok(Ok(4)));
    }

    #[test]
    fn causes_stand_in_one_line() {
        assert_eq!(
            one_line("Validation Error\n\nCaused by:\n  Parent device is lost\n"),
            "Validation Error Caused by: Parent device is lost"
        );
    }
}
