"""The engine of the endpoint: many requests, many models, few passes of the networks."""
