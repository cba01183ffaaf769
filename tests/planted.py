"""A password that is hard to encode and easy to look for."""

PLANTED = "pl4nted!@:/?#[]%25+&= sécret"
