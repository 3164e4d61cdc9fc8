"""Audit: what happened to every call, as a chain of records that nobody changes unseen.

`policy.py` sees calls end and queues facts; `records.py` puts them into words; `hashes.py` seals and signs;
`trail.py` keeps the file, its rotation and its recovery; `writer.py` is the thread behind it all; `verify.py` checks.
"""
