"""The page to try the endpoint in a browser."""
