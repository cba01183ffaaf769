"""Who is compared, each in its best configuration, all with the same statements and as many connections."""
