"""Run ShinkaEvolve on the balancer: models, launching, progress, resuming."""
