"""The parts of MBPO: mining, and training on both kinds of backbone."""
