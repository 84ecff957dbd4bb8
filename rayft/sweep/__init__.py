"""What a sweep decides, in plain Python: space, search, plan, choice."""
