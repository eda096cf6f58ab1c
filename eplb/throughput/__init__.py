"""What a placement is worth in a deployment: tokens per second.

`dispatch` splits an expert's tokens among its replicas, `kernels` has the time of a layer on a GPU,
`profile` describes a deployment, and `worth` puts them together. Not covered: see `worth`.
"""
