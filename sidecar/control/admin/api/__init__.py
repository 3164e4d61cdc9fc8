"""The generated code of `sidecar.v1.Admin`; see protos/generate.py."""
