//! Accounts: what has a name of its own in `owner/name`.

words! {
    /// What an account is of.
    AccountKind {
        /// A person.
        Person = "person",
        /// A program: tokens only.
        Service = "service",
        /// A project, which acts through its members.
        Project = "project",
    }
}
