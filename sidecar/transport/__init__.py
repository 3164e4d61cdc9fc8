"""All sockets: feeding the HTTP/2 engine, writing what it made, TLS, binding and dialling."""
