"""Score, evolve and deploy expert-parallelism load balancers."""
