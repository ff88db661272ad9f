//! What goes into the initramfs, and the builder that puts it together.
//!
//! An initramfs is two cpio archives (the kernel's "newc" form), each compressed by itself and
//! written one behind the other, which the kernel unpacks in turn. [`module_cpio`] belongs to an
//! image, since modules fit one kernel only; [`agent_cpio`] belongs to haasd, so that a new agent
//! changes no image. Both are reproducible: the same files give the same bytes, whenever and
//! wherever they are built.

mod agent;
mod archive;
mod elf;
mod modules;

pub use agent::{AgentError, AgentFiles, agent_cpio};
pub use archive::{Archive, ArchiveError};
pub use elf::ElfError;
pub use modules::{ModulesError, WANTED, Wanted, module_cpio};
