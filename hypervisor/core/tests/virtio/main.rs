//! The mediator between a guest's virtio queues and a device: against a model of both, and against a guest that writes anything
//! anywhere at any time. The device looks at every address that it is told.

mod device;
mod driver;
mod hostile;
mod interrupts;
mod kinds;
mod ram;
mod registers;
mod work;
