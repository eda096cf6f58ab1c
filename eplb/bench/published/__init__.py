"""The balancers that serving engines ship, fetched from their releases as programs."""
