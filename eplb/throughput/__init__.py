"""What a placement is worth in a deployment: tokens per second.

`dispatch` splits an expert's tokens among its replicas (`flow`: with the hottest GPU as cool as can
be), `kernels` has the time of a layer on a GPU, `profile` describes a deployment, and `worth` puts
them together.
"""
