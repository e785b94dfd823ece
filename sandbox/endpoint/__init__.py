"""A destination of one's own: an endpoint that checks what it is posted, and takes it once."""
