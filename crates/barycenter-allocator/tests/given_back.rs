//! The setting of a server, in a process of its own.

#![expect(clippy::unwrap_used, reason = "a failure ends the test")]

#[global_allocator]
static ALLOCATOR: barycenter_allocator::MiMalloc = barycenter_allocator::MiMalloc;

/// What a connection reads at a time.
const BUFFER: usize = 400_000;
const BUFFERS: usize = 250;

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    4096 * statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
}

#[test]
#[cfg(target_os = "linux")]
fn freed_buffers_go_back_to_the_system_at_once() {
    barycenter_allocator::give_back_at_once();
    let before = resident_bytes();
    let buffers: Vec<_> = (0..BUFFERS).map(|_| vec![1_u8; BUFFER]).collect();
    let held = resident_bytes() - before;
    assert!(held > BUFFERS * BUFFER * 9 / 10, "{held} bytes");
    drop(buffers);
    let left = resident_bytes() - before;
    assert!(left < BUFFERS * BUFFER / 10, "{left} bytes are left");
}
