//! Waiting for a scheduled moment, to some ten microseconds. The runtime's own timer counts whole milliseconds, which
//! would stand in the latencies of an open loop.

use std::io;
use std::os::fd::OwnedFd;

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::unix::AsyncFd;

use crate::clock::{Monotonic, monotonic};

/// One timer of the kernel, on the clock that [`monotonic`] reads.
#[derive(Debug)]
pub(super) struct Pacer(AsyncFd<OwnedFd>);

impl Pacer {
    /// A timer for the runtime that this is called in.
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Boottime, flags)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe, against descriptors that change; this one is owned and does not"
        )]
        AsyncFd::new(timer).map(Self)
    }

    /// Waits until `moment`; returns at once if it has passed.
    pub(super) async fn until(&self, moment: Monotonic) -> io::Result<()> {
        let left = moment.since(monotonic());
        if left.is_zero() {
            return Ok(());
        }
        let seconds = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
        let once = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec { tv_sec: seconds, tv_nsec: left.subsec_nanos().into() },
        };
        // Setting the timer also forgets an expiry that nobody waited for, as after a `select` that went the other way.
        rustix::time::timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut ready = self.0.readable().await?;
            let mut expiries = [0_u8; 8];
            let read = ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut expiries)?));
            match read {
                Ok(read) => return read.map(|_| ()),
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn it_never_wakes_early() -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let pacer = Pacer::new()?;
            for us in [0, 1, 100, 2_500] {
                let moment = monotonic().plus(Duration::from_micros(us));
                pacer.until(moment).await?;
                assert!(monotonic() >= moment, "{us} us");
            }
            // A wait that is given up leaves nothing behind for the next.
            let soon = monotonic().plus(Duration::from_micros(200));
            let _given_up = tokio::time::timeout(Duration::ZERO, pacer.until(soon)).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
            let moment = monotonic().plus(Duration::from_millis(3));
            pacer.until(moment).await?;
            assert!(monotonic() >= moment);
            Ok(())
        })
    }
}
