"""What a placement is worth in a deployment: tokens per second.

`dispatch` splits an expert's tokens among its replicas, `flow` does so with the hottest GPU as
cool as can be.
"""
