"""Two bundles on the same windows: is the new one better?"""
