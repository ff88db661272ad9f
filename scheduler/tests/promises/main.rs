//! The planner's promises, each under its own name.

mod advance;
mod build;
mod explain;
mod invariants;
mod nodes;
mod queues;
mod world;
