"""Where a request may go and in what order, and what was measured of each endpoint.

In come a canonical request, the endpoints with their prices, observations, wishes and the time; out goes a route with
a reason for every place in it and every endpoint left out. No sockets, no clock, no dice of its own.
"""
