"""The browser page: one open case, one session, and what a reader clicks. Never imported by the container's path."""
