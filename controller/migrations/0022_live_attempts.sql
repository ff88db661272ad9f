-- Those whose nodes may have their root are looked for often, and they are few among all that ever were.
create index live_attempts on attempts (state) where state in ('open', 'ready');
