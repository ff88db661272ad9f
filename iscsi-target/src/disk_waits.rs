//! Waiting for disks on threads made for it, of which no class has all: one whose nodes read what is not
//! in memory leaves threads to the others. (Two such classes can have all of one I/O thread's.)

use std::io;
use std::sync::Arc;

use tokio::sync::Semaphore;

/// Threads of one I/O thread that wait for disks in its place.
pub(crate) const DISK_THREADS: usize = 32;

/// What waits of one class at the same time. More wait for these, and not before others.
#[derive(Debug, Clone)]
pub(crate) struct DiskWaits(Arc<Semaphore>);

impl Default for DiskWaits {
    /// Half of the threads of one I/O thread, for the class on all of them.
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(DISK_THREADS / 2)))
    }
}

impl DiskWaits {
    /// Does what may wait for a disk. Once begun, it is done also if nobody waits for it any more.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let place = Arc::clone(&self.0).acquire_owned().await.map_err(io::Error::other)?;
        let work = move || {
            let _place = place;
            work()
        };
        tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_class_whose_disk_does_not_answer_leaves_threads_to_others() {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().max_blocking_threads(DISK_THREADS).build().unwrap();
        let (answer, answered) = channel::<()>();
        let answered = Arc::new(std::sync::Mutex::new(answered));
        runtime.block_on(async {
            let (slow, quick) = (DiskWaits::default(), DiskWaits::default());
            for _ in 0..2 * DISK_THREADS {
                let (slow, answered) = (slow.clone(), Arc::clone(&answered));
                tokio::spawn(async move {
                    slow.run(move || {
                        // It ends with the test.
                        let _ = answered.lock().unwrap().recv();
                        Ok(())
                    })
                    .await
                });
            }
            tokio::task::yield_now().await;
            let other = quick.run(|| Ok(7));
            let other = tokio::time::timeout(Duration::from_secs(10), other).await;
            drop(answer);
            assert_eq!(other.expect("it waits behind the other class").unwrap(), 7);
        });
    }
}
