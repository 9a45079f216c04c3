//! What the framework tells of a machine's end.

use std::sync::mpsc::Sender;

use objc2::{AnyThread, DefinedClass, define_class, msg_send, rc::Retained};
use objc2_foundation::{NSError, NSObject, NSObjectProtocol};
use objc2_virtualization::{VZVirtualMachine, VZVirtualMachineDelegate};

use super::words;
use crate::framework::End;

define_class!(
    // SAFETY: NSObject asks nothing of its subclasses, and there is no `Drop` here.
    #[unsafe(super(NSObject))]
    #[name = "MicroagentMachineDelegate"]
    #[ivars = Sender<End>]
    pub(super) struct Delegate;

    // SAFETY: NSObject keeps to it.
    unsafe impl NSObjectProtocol for Delegate {}

    // SAFETY: the methods have the types of the protocol's.
    unsafe impl VZVirtualMachineDelegate for Delegate {
        #[unsafe(method(guestDidStopVirtualMachine:))]
        fn guest_did_stop(&self, _machine: &VZVirtualMachine) {
            let _ = self.ivars().send(End::GuestStopped);
        }

        #[unsafe(method(virtualMachine:didStopWithError:))]
        fn did_stop_with_error(&self, _machine: &VZVirtualMachine, error: &NSError) {
            let _ = self.ivars().send(End::Failed(words(error)));
        }
    }
);

impl Delegate {
    pub(super) fn new(told: Sender<End>) -> Retained<Self> {
        let this = Self::alloc().set_ivars(told);
        // SAFETY: this is how NSObject is initialised.
        unsafe { msg_send![super(this), init] }
    }
}
