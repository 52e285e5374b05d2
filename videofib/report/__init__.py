"""What has become of a run, on one page: its folder in, HTML out that needs nothing but itself."""
