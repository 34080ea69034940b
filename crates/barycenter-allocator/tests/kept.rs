//! The setting as a program sees it: in a process of its own, since it holds for all of it.

#![expect(clippy::unwrap_used, reason = "a failure ends the test")]

use std::time::Duration;

#[global_allocator]
static ALLOCATOR: barycenter_allocator::MiMalloc = barycenter_allocator::MiMalloc;

const BUFFER: usize = 32 << 20;

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    4096 * statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
}

/// The least that stays resident when large buffers come and go, with pauses, and smaller ones after them give the allocator
/// the occasion to look at its clock.
fn resident_between_steps() -> usize {
    let take = |bytes| drop(std::hint::black_box(vec![1_u8; bytes]));
    let pause = || std::thread::sleep(Duration::from_millis(250));
    let step = |_| {
        take(BUFFER);
        pause();
        take(BUFFER / 8);
        pause();
        for _ in 0..100 {
            take(BUFFER / 8);
            take(100_000);
        }
        resident_bytes()
    };
    (0..3).map(step).min().unwrap()
}

#[test]
#[cfg(target_os = "linux")]
fn freed_memory_is_kept_for_the_next_step() {
    barycenter_allocator::keep_between_steps();
    let kept = resident_between_steps();
    assert!(kept > BUFFER, "{kept} bytes are left");
}
