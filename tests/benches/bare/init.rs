// The floor of a boot: an init that prints the guest's monotonic clock and powers off. Compiled by the bench, linked statically.
fn main() {
    // CLOCK_MONOTONIC begins when the guest's kernel does.
    let mut now = Timespec { seconds: 0, nanoseconds: 0 };
    // SAFETY: `now` is a timespec that outlives the call.
    unsafe { clock_gettime(1, &mut now) };
    println!("bare-init {}", now.seconds * 1000 + now.nanoseconds / 1_000_000);
    // SAFETY: no pointer is passed; LINUX_REBOOT_CMD_POWER_OFF, which does not return to a process 1.
    unsafe { reboot(0x4321_fedc) };
}

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

unsafe extern "C" {
    fn clock_gettime(clock: i32, time: *mut Timespec) -> i32;
    fn reboot(command: i32) -> i32;
}
