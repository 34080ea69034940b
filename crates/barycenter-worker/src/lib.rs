//! Leases averaging jobs over HTTP and runs them on a device.
