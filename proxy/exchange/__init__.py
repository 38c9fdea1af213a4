"""One client request from its hold to its last byte, with all its attempts.

In come a caller's key and a request in one of the surfaces' words; out go the answer's bytes and a settled charge. May
touch the endpoints (`upstream`), the ledger's store and the client's connection; reads settings that it is given.
"""
