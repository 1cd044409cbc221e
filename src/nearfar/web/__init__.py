"""The HTTP interface of ``nearfar watch``: pages for people and an API for programs."""
